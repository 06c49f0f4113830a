"""The control API over HTTP: requests as data, what answers them, and the documents made from them."""
