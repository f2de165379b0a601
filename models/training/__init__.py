"""Everything only training and evaluation need; the core of `models` never imports it."""
