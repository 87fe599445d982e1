__version__ = "0.1.0"
"One reward cannot represent people who disagree: MaxMin-RLHF in notebooks."
