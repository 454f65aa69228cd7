"""TSEs that speak the protocols of their vendors byte for byte, with faults that can be injected. NOT CERTIFIED."""
