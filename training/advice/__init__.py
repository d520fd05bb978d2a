"""Which way of transfer learning a data set asks for, and why: evidence, a decision, and the words for both."""
