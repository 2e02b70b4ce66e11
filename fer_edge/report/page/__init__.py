"""The report as one HTML file: no script, no network, readable where there is only a browser."""
