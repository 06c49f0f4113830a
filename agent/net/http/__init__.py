"""HTTP over the streams: the client, redirects, TLS resumption, and the web site of our own servers."""
