"""The APNs simulator on the network: gateway, connections of providers, router, push endpoints; and a provider."""
