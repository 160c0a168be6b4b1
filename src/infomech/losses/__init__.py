"""The InfoNCE family: function and module side by side."""
