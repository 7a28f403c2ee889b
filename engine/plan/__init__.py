"""What a fit will cost, before anything is read: bytes, operations and seconds, and from these the method."""
