"""What each call of the API does, one noun a file. A handler takes a Request and returns JSON or a response."""
