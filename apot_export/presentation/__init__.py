"""How results are shown, whatever they are of: tables, drawings, numbers and pages."""
