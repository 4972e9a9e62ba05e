"""From the rows that detectors wrote to metrics, figures and a report; of the rest of the project it knows only `modules.metrics`."""
