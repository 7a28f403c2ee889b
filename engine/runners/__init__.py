"""Who executes a reduction: `serial` is the reference, every other runner must agree with it."""
