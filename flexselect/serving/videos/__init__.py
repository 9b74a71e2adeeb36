"""Videos that requests name: fetched safely, encoded once, kept in a bounded amount of memory."""
