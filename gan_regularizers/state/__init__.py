"""What a module keeps between its forwards, and finds again when one is run again."""
