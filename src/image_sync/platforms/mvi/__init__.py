"""IBM Maximo Visual Inspection and its forerunners: ``api`` speaks IBM's words, ``platform`` ours."""
