"""Hosts: where their code gets lines of ours, the launcher that inserts these, and what the lines import."""
