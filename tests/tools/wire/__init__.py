"""Write the description of the wire, and the browser's types of it, from the structs of ``web/messages.py``."""
