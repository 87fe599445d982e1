# Mixtures of logistic regressions by user, fitted by flexmix. Called by mixture_vs_flexmix.py:
#   Rscript mixture_flexmix.R comparisons.csv K restarts
# The file has a column `user` and one column for each feature, chosen minus rejected. Every answer is a "yes" and there is no
# intercept, so that the model is a mixture of Bradley-Terry models. Prints seconds, iterations and log-likelihood of each start.
suppressMessages(library(flexmix))
arg <- commandArgs(TRUE)
d <- read.csv(arg[1])
k <- as.integer(arg[2])
user <- factor(d$user)
x <- as.matrix(d[, -1])
y <- cbind(yes = rep(1, nrow(x)), no = 0)
for (s in seq_len(as.integer(arg[3]))) {
  set.seed(s)
  seconds <- system.time(
    f <- flexmix(y ~ x - 1 | user, k = k, model = FLXMRglm(family = "binomial"), control = list(minprior = 0))
  )["elapsed"]
  cat(sprintf("%.4f %d %.6f\n", seconds, f@iter, as.numeric(logLik(f))))
}
