"""The page, the paper's files and the summary for a terminal."""
