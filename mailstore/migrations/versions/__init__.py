"""The revisions, oldest first by number; a published revision is never edited."""
