"""One module per kind of receipt. A kind is a function from a Work to an Outcome; it never writes."""
