"""What people look at: a campaign, a trial, a finding and a summary as pages, for the report and the dashboard."""
