"""Who may ask, and how much: keys, rates, and limits of a request."""
