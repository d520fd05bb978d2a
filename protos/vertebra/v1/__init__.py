"""The generated stubs of vertebra.v1; written by `make stubs`, never by hand."""
