"""What a model class tells when it is built and run on the `meta` device, without data."""
