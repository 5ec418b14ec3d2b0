"""What the server keeps, one noun a file: the SQL, and the JSON that MVI shows for it."""
