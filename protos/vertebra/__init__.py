"""What both sides of Vertebra's wire agree on; knows nothing of the server behind it."""
