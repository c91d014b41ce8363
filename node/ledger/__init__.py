"""The books: accounts, holds and transfers. The sole committer of money."""
