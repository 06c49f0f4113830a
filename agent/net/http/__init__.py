"""HTTP over the streams: the client, redirects, TLS resumption, and the web server of our own services."""
