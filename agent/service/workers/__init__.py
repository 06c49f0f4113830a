"""A service in several processes: the front, which has the control API, and workers, each with a share of the Macs.

The front forwards a request to the worker that has the Mac, or asks all workers and merges what they answer. Each
worker is a service of its own (`agent.service.fleet`) whose events the front numbers again.
"""
