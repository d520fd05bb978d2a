"""The generated stubs of vertebra.v1; written by `make protos`, never by hand."""
