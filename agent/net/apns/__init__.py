"""The APNs simulator on the network: gateway, provider connections, routing of pushes."""
