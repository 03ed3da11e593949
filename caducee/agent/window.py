"""The small window: reads a question (JSON) on standard input, writes the answer on standard output, and ends."""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> int:
    """0 with an answer; 1 without a desktop to show a window on."""
    question = json.loads(sys.stdin.buffer.read(64 * 1024))
    try:
        import tkinter

        root = tkinter.Tk()
    except Exception:
        # No tkinter in this Python, or no desktop: the agent takes silence for no.
        return 1
    sys.stdout.write(json.dumps(_ask(tkinter, root, question)))
    return 0


def _ask(tkinter: Any, root: Any, question: dict[str, Any]) -> dict[str, object]:
    answer: dict[str, object] = {"agreed": False}
    root.title("Caducée — signature")
    for line in question["shown"]:
        tkinter.Label(root, text=line, anchor="w", justify="left", wraplength=700).pack(fill="x", padx=12, pady=2)
    entry = tkinter.Entry(root, show="•") if question["pin"] else None
    if entry is not None:
        tkinter.Label(root, text="Code PIN / PIN", anchor="w").pack(fill="x", padx=12)
        entry.pack(fill="x", padx=12, pady=4)
        entry.focus_force()

    def agree(_event: object = None) -> None:
        answer["pin"] = entry.get() if entry is not None else ""
        answer["agreed"] = entry is None or bool(answer["pin"])
        root.destroy()

    buttons = tkinter.Frame(root)
    tkinter.Button(buttons, text="Signer / Sign", command=agree).pack(side="right", padx=4)
    tkinter.Button(buttons, text="Refuser / Refuse", command=root.destroy).pack(side="right", padx=4)
    buttons.pack(fill="x", padx=12, pady=10)
    root.bind("<Return>", agree)
    root.bind("<Escape>", lambda _event: root.destroy())
    root.attributes("-topmost", True)
    root.mainloop()
    return answer


if __name__ == "__main__":
    sys.exit(main())
