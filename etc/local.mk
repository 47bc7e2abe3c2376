# etc: samples, installed with the documents
dist_doc_DATA += \
    etc/examples/ask.py \
    etc/examples/job.sh \
    etc/modelpool.conf \
    etc/modelpoold.service \
    etc/plugstack.conf
