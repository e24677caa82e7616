"""What every HTTP request meets, whatever it asks for: authentication, limits, headers, errors, the access log."""
