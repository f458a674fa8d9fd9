"""What several processes do together: settings, who does what (`ranks`), who answers (`spread`)."""
