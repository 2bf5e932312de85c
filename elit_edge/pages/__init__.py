"""What all pages share: the frame, tables, plots. A page needs nothing else: no network, no script, no font."""
