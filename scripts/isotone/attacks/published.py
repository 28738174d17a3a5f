"""What the published study called a success, kept to set its numbers beside ours.

Source: Cooper, Nadali, Trivedi & Velasquez 2026 (arXiv:2602.02686; code: mono-s2s).
"""

SUCCESS = 0.15  # Pythia: the total loss rises by more than this share of the clean loss
SUCCESS_PAIRS = 0.10  # T5: the same of the loss of the target, given the source
