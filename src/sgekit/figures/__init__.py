"""How figures and pages look: style, gates over pictures, pictures embedded in a page."""
