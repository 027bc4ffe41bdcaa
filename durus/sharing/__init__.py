"""One storage for many clients: the session core, the wire protocol and addresses."""
