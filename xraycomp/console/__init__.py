"""How the kit speaks to the person at the terminal: errors and the frame around every command."""
