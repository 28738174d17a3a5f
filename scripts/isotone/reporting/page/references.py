"""The works that the method rests on, for BibTeX."""

from __future__ import annotations

REFERENCES = """\
@article{efron1987,
  author = {Efron, Bradley},
  title = {Better Bootstrap Confidence Intervals},
  journal = {Journal of the American Statistical Association},
  volume = {82}, number = {397}, pages = {171--185}, year = {1987}
}
@article{owen2007,
  author = {Owen, Art B.},
  title = {The Pigeonhole Bootstrap},
  journal = {The Annals of Applied Statistics},
  volume = {1}, number = {2}, pages = {386--411}, year = {2007}
}
@book{cochran1957,
  author = {Cochran, William G. and Cox, Gertrude M.},
  title = {Experimental Designs},
  edition = {2nd}, publisher = {Wiley}, address = {New York}, year = {1957}
}
@article{holm1979,
  author = {Holm, Sture},
  title = {A Simple Sequentially Rejective Multiple Test Procedure},
  journal = {Scandinavian Journal of Statistics},
  volume = {6}, number = {2}, pages = {65--70}, year = {1979}
}
@article{benjamini1995,
  author = {Benjamini, Yoav and Hochberg, Yosef},
  title = {Controlling the False Discovery Rate: A Practical and Powerful Approach to Multiple Testing},
  journal = {Journal of the Royal Statistical Society: Series B},
  volume = {57}, number = {1}, pages = {289--300}, year = {1995}
}
@article{mcnemar1947,
  author = {McNemar, Quinn},
  title = {Note on the Sampling Error of the Difference between Correlated Proportions or Percentages},
  journal = {Psychometrika},
  volume = {12}, number = {2}, pages = {153--157}, year = {1947}
}
@article{wilson1927,
  author = {Wilson, Edwin B.},
  title = {Probable Inference, the Law of Succession, and Statistical Inference},
  journal = {Journal of the American Statistical Association},
  volume = {22}, number = {158}, pages = {209--212}, year = {1927}
}
@article{kaplan1958,
  author = {Kaplan, E. L. and Meier, Paul},
  title = {Nonparametric Estimation from Incomplete Observations},
  journal = {Journal of the American Statistical Association},
  volume = {53}, number = {282}, pages = {457--481}, year = {1958}
}
@inproceedings{ebrahimi2018,
  author = {Ebrahimi, Javid and Rao, Anyi and Lowd, Daniel and Dou, Dejing},
  title = {{HotFlip}: White-Box Adversarial Examples for Text Classification},
  booktitle = {Proceedings of ACL 2018, Short Papers},
  pages = {31--36}, year = {2018}, note = {arXiv:1712.06751}
}
@inproceedings{wallace2019,
  author = {Wallace, Eric and Feng, Shi and Kandpal, Nikhil and Gardner, Matt and Singh, Sameer},
  title = {Universal Adversarial Triggers for Attacking and Analyzing {NLP}},
  booktitle = {Proceedings of EMNLP-IJCNLP 2019},
  pages = {2153--2162}, year = {2019}, note = {arXiv:1908.07125}
}
@misc{zou2023,
  author = {Zou, Andy and Wang, Zifan and Carlini, Nicholas and Nasr, Milad and Kolter, J. Zico and Fredrikson, Matt},
  title = {Universal and Transferable Adversarial Attacks on Aligned Language Models},
  year = {2023}, note = {arXiv:2307.15043}
}
"""
