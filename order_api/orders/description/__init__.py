"""What the OpenAPI document says of the calls on orders: shared parameters and answers, examples, problems."""
