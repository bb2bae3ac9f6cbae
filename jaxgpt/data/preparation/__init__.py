"""From text of any size to token shards, in constant memory."""
