"""The desk agent: between an ordinary mail program and the operator, it signs each message with the sender's card."""
