"""What every HTTP request passes, whatever it asks for: authentication, limits, headers, errors, the access log."""
