"""Checks of a scenario that its types cannot express, and the errors about its keys."""
