"""The process that tells endpoints of users what became of their orders: by webhook, e-mail or web push."""
