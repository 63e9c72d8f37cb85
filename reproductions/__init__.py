"""The papers' studies, run for real: what is kept of them, and their pages.

python -m reproductions                       every page from the kept files
python -m reproductions keep NAME --store S   keep what a store measured of a study, then its page
"""
