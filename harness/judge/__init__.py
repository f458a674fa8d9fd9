"""Judging stored answers with a language model behind any OpenAI-compatible endpoint.

Modules, each importing those before it only:

* `definition`: a judge as YAML (model, prompt, parameters, dated prices).
* `fencing`: untrusted text made harmless inside a judge's prompt.
* `parsing`: from a raw response to one of five states.
* `calls`: which questions a run's stored answers ask, and the key of each.
* `verdict_log`: verdicts and costs on disk.
* `budget`: the spending limit.
* `client`: the only door to the ``openai`` package.
* `asking`: what is not recorded yet is asked, recorded, and only then used.
* `results`: from verdicts to ratios and win rates.
* `printing`: what a person reads.
* `command`: the verb.
"""
