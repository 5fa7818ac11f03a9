"""Certificates, restricted users and URLs for a fleet's private Redis."""
