"""CPS cards for tests: an emulator behind a virtual reader, pcscd of its own, OpenSC as witness."""
