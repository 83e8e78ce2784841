"""The search compared with others: synthetic networks, tables of real ones, statistics."""
