# etc: samples, installed with the documents
dist_doc_DATA += \
    etc/examples/ask.py \
    etc/examples/job.sh \
    etc/modelpool.conf \
    etc/modelpoold.service \
    etc/plugstack.conf

# costs of devices, for modelpool sim
costsdir = $(pkgdatadir)/costs
dist_costs_DATA = \
    etc/costs/a10.conf \
    etc/costs/h100.conf \
    etc/costs/h800.conf
