"""Building blocks of HTML pages: tables, figures, Markdown."""
